"""Networks: `catalogue` declares the families without importing torch; one module per architecture builds them."""
