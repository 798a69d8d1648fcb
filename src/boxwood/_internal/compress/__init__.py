"""From a trained network and a floor of its accuracy to a folder with a smaller, faster one."""
