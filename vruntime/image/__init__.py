"""Images without an engine: unpacked once, kept by what they hold, and run with a layer of each container's own.

reference    what --image names
layout       finds an image in an OCI layout
archive      finds an image in a docker archive
manifest     an image: its config and its layers, each known by its digest
unpack       its layers made a directory, by umoci
cache        the directories that are kept, shared by all containers
layer        what is one container's own: what it writes, its volumes, its bundle
conversion   the image's config made a config.json; users: who its user is
prepare      the story of all of these, for `run`
"""
