"""The demo of the console: three invented hospitals on one machine that receive phantom scans."""
