"""What is the bundle that a runner runs?"""
