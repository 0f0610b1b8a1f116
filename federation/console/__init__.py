"""The clinicians' console: web pages and a JSON API over the review store, without torch."""
