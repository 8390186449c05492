"""What trains and evaluates one cell of a study, one file for each kind of task."""
