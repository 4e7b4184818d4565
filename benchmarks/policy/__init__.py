"""Does the policy wait less and cost less than those of other tools?"""
