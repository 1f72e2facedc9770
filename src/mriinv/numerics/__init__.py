"""Small, exact numerical kernels, each tested against dense algebra."""
