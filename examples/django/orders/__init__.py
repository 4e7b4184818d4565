"""What does this shop sell?"""
