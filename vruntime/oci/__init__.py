"""The OCI runtime specification (1.2) as this runtime reads it.

config.py       config.json: read, checked, turned into what the host and the guest need
strict_json.py  bounded, strict reading of JSON files
schema.py       the shape of a document, by config-schema.json
checks.py       what a schema cannot say
linux_checks.py the same, of the section `linux`
support.py      what this runtime supports, ignores and refuses, in tables
faults.py       all faults as one error
document.py     looking into a document that may be wrong
process.py      a process: from config.json, from the file of `exec --process`, from flags
defaults.py     the config.json that `spec` writes
features.py     the document that `features` prints
"""
