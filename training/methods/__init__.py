"""Methods that add to the velocity loss: one file for each method that --loss-type names."""
