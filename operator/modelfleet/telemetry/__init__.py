"""What routers report: scraped, checked, added up."""
