"""LibreYOLO's YOLO9 with PST in its neck; importing this teaches `libreyolo.LibreYOLO` to load such checkpoints.

from libreyolo import LibreYOLO
from pst.integrations.libreyolo import add_pst
model = add_pst(LibreYOLO("LibreYOLO9s.pt"), topk=8)
model.train(data="cells.yaml", epochs=50)
"""

from pst.integrations.libreyolo.compat import check_version

check_version()

from pst.integrations.libreyolo.add import add_pst  # noqa: E402  the check comes first
from pst.integrations.libreyolo.models import LibreYOLO9P2PST, LibreYOLO9PST  # noqa: E402

__all__ = ["LibreYOLO9P2PST", "LibreYOLO9PST", "add_pst"]
