"""Web security of the console: headers, cookies, CSRF tokens, sessions, size limits, uploads."""
