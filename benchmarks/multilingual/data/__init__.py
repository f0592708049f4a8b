"""Where the items of the tasks come from: voice commands of a package, files in public formats, data sets on a hub."""
