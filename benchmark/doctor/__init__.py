"""What this machine has and lacks for bnnbench: checks that look and never change anything, each on its own."""
