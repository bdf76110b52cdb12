"""Both programs under kills, cuts, stops and hostile neighbours, for minutes or hours."""
