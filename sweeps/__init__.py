"""Many runs of the project's commands: cells in folders of their own, run, watched and reported."""
