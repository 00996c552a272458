"""A self-test of the real device, in minutes: what works, what does not, and what to do about it.

`selftest.run` takes the networks through everything that a photo meets, on the device that serves it, and compares with
the same on the CPU in float32 and with stored masks. The checks know nothing of a command line: `cutout doctor --deep`
shows them, and so does `python -m cutout.inference.selftest` on a host without the service's libraries.

Modules, one for each kind of check:

    checklist       takes one check after the other, and keeps what they find
    subjects        the networks under test, and where their weights come from
    samples         the photo and the masks that come with the package
    comparison      when two masks count as the same
    device          the host: device, driver, versions, clocks
    weights         files, and the order of BiRefNet's patches
    networks        masks, graphs, memory and speed of one network
    photos          whole photos through the engine: each tier, many at once, edges
    run             the order of all of them
    report          the JSON file
"""

from cutout.inference.selftest.checklist import Checklist as Checklist
from cutout.inference.selftest.checklist import Finding as Finding
from cutout.inference.selftest.checklist import Outcome as Outcome
from cutout.inference.selftest.report import as_json as as_json
from cutout.inference.selftest.report import write_report as write_report
from cutout.inference.selftest.run import Plan as Plan
from cutout.inference.selftest.run import run as run
from cutout.inference.selftest.subjects import Subject as Subject
from cutout.inference.selftest.subjects import installed as installed
