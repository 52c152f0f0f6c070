"""Questions of a study and a decomposition."""
