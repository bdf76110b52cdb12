"""`hat service`: both programs as services of systemd or launchd."""
