"""How near a prompt's first token comes to what its link, device and cloud allow."""
