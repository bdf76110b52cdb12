"""What is served, as tables, and their description for programs (OpenAPI)."""
