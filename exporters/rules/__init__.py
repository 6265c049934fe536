"""Gradient rules, one file per operator family; importing this package registers them all.

The modules are listed by hand, since discovery would depend on how the package was installed.
"""

import deepinside.exporters.rules.activations
import deepinside.exporters.rules.convolution
import deepinside.exporters.rules.elementwise
import deepinside.exporters.rules.indexing
import deepinside.exporters.rules.layout
import deepinside.exporters.rules.linear
import deepinside.exporters.rules.movement
import deepinside.exporters.rules.normalization
import deepinside.exporters.rules.pooling
import deepinside.exporters.rules.quantisation
import deepinside.exporters.rules.reductions
import deepinside.exporters.rules.resize  # noqa: F401  (all imported for their registrations)
