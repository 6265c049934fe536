"""Gradient rules, one file per operator family; importing this package registers them all.

The modules are listed by hand, since discovery would depend on how the package was installed.
"""

import deepinside.exporters.rules.activations
import deepinside.exporters.rules.control
import deepinside.exporters.rules.convolution
import deepinside.exporters.rules.elementwise
import deepinside.exporters.rules.geometry
import deepinside.exporters.rules.indexing
import deepinside.exporters.rules.layout
import deepinside.exporters.rules.linear
import deepinside.exporters.rules.movement
import deepinside.exporters.rules.normalization
import deepinside.exporters.rules.pooling
import deepinside.exporters.rules.quantisation
import deepinside.exporters.rules.reductions
import deepinside.exporters.rules.resize
import deepinside.exporters.rules.sampling
import deepinside.exporters.rules.selection
import deepinside.exporters.rules.signals
import deepinside.exporters.rules.trigonometry  # noqa: F401  (all imported for their registrations)
