"""Tools that know nothing of attacks, networks or cells."""
