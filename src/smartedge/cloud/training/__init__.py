"""The three trainings of the back: frames of one edge in their order, frames of several edges, and complete logs."""
