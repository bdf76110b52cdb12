"""What runs beside the user: sessions, acceptance, drafting, engines, link, driver."""
