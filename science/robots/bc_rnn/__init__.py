"""BC-RNN: behavioural cloning with a recurrent Gaussian-mixture policy, by robomimic's own code.

`config.py` names every setting, `training.py` trains and resumes, `checkpoint.py` reads a checkpoint's facts without
running foreign code, `policy.py` acts. Everything here but `config.py` is imported by worker processes only: torch and
robomimic take seconds to import.
"""
