"""Running recipes: keys, a store on disk, and a runner that can be killed at any time."""
