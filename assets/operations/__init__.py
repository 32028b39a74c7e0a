"""What the platform did and what befell it: jobs, incidents, and runs that lost their process.

Assets here compute nothing heavy and start no jobs; they read job directories and ask the sites.
"""
