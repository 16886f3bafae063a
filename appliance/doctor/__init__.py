"""What an operator asks first: is this host well, what is wrong, what to do? Changes nothing."""
