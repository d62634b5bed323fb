"""What is coupled to what: tracing, the axis algebra, and the costs written in it."""
