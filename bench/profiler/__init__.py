"""Does the profiler find the knee that an exhaustive sweep finds, and the step times that an engine was given?"""
