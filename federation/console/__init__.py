"""The clinicians' console: pages and a JSON API over the review store. Holds no model, imports no torch: what needs one is a process."""
