"""What a person looks at: the page of a run, its figures and pictures."""
