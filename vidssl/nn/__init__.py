"""Small neural-network parts that several methods and heads share."""
