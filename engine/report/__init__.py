"""The page of an experiment: which stages are there, their curves, small pictures, and the HTML around them."""
