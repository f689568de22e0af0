"""What a run begins with: its data set, its folder, both ends of its link, and the processes of its sides."""
