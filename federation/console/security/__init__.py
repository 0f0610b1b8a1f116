"""What keeps the console safe: headers, cookies, CSRF, sessions, limits, uploads, and the guard of every route."""
