"""What is drawn or written from maps: views, files, layers, the explorer's page."""
