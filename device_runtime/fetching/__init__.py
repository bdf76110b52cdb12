"""The device's bundle comes from its cloud, where that serves one: resumed, checked, and kept."""
