"""The tables and figures of the paper from one command: what is compared is a plan, what is missing is computed."""
