"""`segtl dicom-node`: receives series by C-STORE, segments them, and sends DICOM-SEG back by C-STORE (pynetdicom)."""

from __future__ import annotations

import logging
import re
import shutil
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from seg_transfer.errors import UserError, cause_of, printable
from seg_transfer.options.serving_options import DicomNodeOptions, Modality
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.serving.incoming import Collector, Incoming
from seg_transfer.serving.segment import Task, check_one_channel
from seg_transfer.serving.service_folder import service_folder
from seg_transfer.serving.tls import NodeContexts, node_contexts
from seg_transfer.serving.worker import WorkerDied, started_worker
from seg_transfer.util.extras import check_extra
from seg_transfer.workflow.dicom_seg import check_named
from seg_transfer.workflow.source import find_source

logger = logging.getLogger(__name__)

STORAGE = {"CT": "CTImageStorage", "MR": "MRImageStorage", "PT": "PositronEmissionTomographyImageStorage"}
"""Modality -> the class of its images, of one slice each."""
CHANNELS: tuple[tuple[Modality, str], ...] = (
    ("CT", r"CT\b|CT_"),
    ("MR", r"MR|T1|T2|FLAIR|ADC|DWI|PD\b"),
    ("PT", r"PET|PT\b"),
)
"""Modality, and how names of channels of it begin."""
SUCCESS, NO_ROOM, NO_MATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Answers to C-STORE (PS3.4, B.2.3)."""
LEAST_ROOM = 2**30
"""Bytes that have to stay free on the disk."""
ATTEMPTS, PAUSE = 3, 5.0
"""How often a segmentation is sent to a peer that does not take it, and the seconds between."""
CONNECT = 30.0
"""Seconds in which a peer has to answer."""
LOOK = 0.2
_PEER = re.compile(r"(?P<title>[^\\@]{1,16})@(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:@\s]+)):(?P<port>[0-9]{1,5})")


class Peer(NamedTuple):
    """Who may send series, and where segmentations of them go."""

    title: str
    host: str
    port: int


def dicom_node(options: DicomNodeOptions) -> Node:
    """Check everything that can be checked before, and make a node, which starts when it is entered.

    Raises:
        UserError: If there is no model, it needs several channels, its modality is not known, a peer cannot be read, a
            package is missing, or TLS cannot be had with the given files.
    """
    check_extra("dicom", "a DICOM node")
    tls = node_contexts(options)
    peers = {peer.title: peer for peer in map(read_peer, options.peers)}
    title = options.ae_title.strip()
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise UserError(f"cannot read {title!r}", where="--ae-title", hint="give 1 to 16 characters of ASCII")
    data = find_source(options).data
    check_one_channel(data, where=options.model)
    check_named(data)
    return Node(options, title, peers, options.modality or modality_of(data), tls)


def read_peer(text: str) -> Peer:
    """``AET@HOST:PORT``.

    Raises:
        UserError: If it is something else.
    """
    found = _PEER.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 2**16 or not found["title"].strip().isascii():
        raise UserError(f"cannot read {text!r}", where="--peer", hint="write AET@HOST:PORT, such as PACS@10.0.0.5:104")
    return Peer(found["title"].strip(), found["six"] or found["host"], int(found["port"]))


def modality_of(data: DataPlan) -> Modality:
    """The modality that the only channel of a plan names.

    Raises:
        UserError: If it names none.
    """
    name = data.channels[0].name
    for modality, pattern in CHANNELS:
        if re.match(pattern, name, re.IGNORECASE):
            return modality
    raise UserError(f"the model's channel {name!r} names no modality", hint="give --modality CT, MR or PT")


class Node:
    """A worker with its models, and a DICOM application entity.

    Attributes:
        modality: The only one that is accepted.
    """

    def __init__(
        self,
        options: DicomNodeOptions,
        title: str,
        peers: dict[str, Peer],
        modality: Modality,
        tls: NodeContexts | None,
    ) -> None:
        self._options, self._title, self._peers, self.modality = options, title, peers, modality
        self._tls = tls
        self._stack = ExitStack()
        self._stopping = threading.Event()

    def __enter__(self) -> Node:
        """Load the models, and listen.

        Raises:
            UserError: If the address is taken, or the models cannot be loaded.
        """
        options = self._options
        with ExitStack() as stack:
            self._folder = stack.enter_context(service_folder("node"))
            self._collector = Collector(self._folder, options.wait)
            self._worker = stack.enter_context(started_worker(options, tta=options.tta))
            thread = threading.Thread(target=self._segment_what_comes, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._worker.close)
            stack.callback(self._stopping.set)
            self._listen(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the associations and the worker, and remove every file."""
        self._stack.close()

    @property
    def address(self) -> str:
        """AE title, address and port."""
        return f"{self._title}@{self._options.host}:{self._port}"

    def serve_forever(self) -> None:
        """Receive until a signal comes."""
        self._stopping.wait()

    def _listen(self, stack: ExitStack) -> None:
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt, sop_class

        entity = AE(ae_title=self._title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._peers)
        entity.add_supported_context(sop_class.Verification)  # type: ignore[attr-defined]
        entity.add_supported_context(getattr(sop_class, STORAGE[self.modality]), ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, self._ended, [False]),
            (evt.EVT_ABORTED, self._ended, [True]),
            (evt.EVT_CONN_CLOSE, self._ended, [True]),
            (evt.EVT_REJECTED, self._rejected),
        ]
        where = f"--host {self._options.host} --port {self._options.port}"
        address = self._options.host, self._options.port
        try:
            tls = None if self._tls is None else self._tls.accepting
            server = entity.start_server(address, block=False, ssl_context=tls, evt_handlers=handlers)
        except OSError as error:
            raise UserError(f"cannot listen: {error.strerror}", where=where, hint="give another --port") from None
        assert server is not None
        self._port = server.server_address[1]
        stack.callback(entity.shutdown)

    def _store(self, event: Any) -> int:
        """Take one image; the answer says why it is not taken."""
        import pydicom

        if shutil.disk_usage(self._folder).free < LEAST_ROOM:
            logger.error("an image was refused: the disk is full")
            return NO_ROOM
        file = self._folder / f"arriving_{threading.get_ident()}"
        try:
            file.write_bytes(event.encoded_dataset())
            tags = ["SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "Modality"]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
            found = {name: str(header.get(name) or "") for name in tags}
        except Exception as error:  # of a data set that is no such: pydicom raises many kinds
            file.unlink(missing_ok=True)
            logger.warning(f"an image was refused: it cannot be read: {printable(str(error))}")
            return NOT_UNDERSTOOD
        if found["Modality"] != self.modality or not found["SeriesInstanceUID"]:
            file.unlink()
            logger.warning(f"an image was refused: its modality is {found['Modality']!r}, not {self.modality}")
            return NO_MATCH
        self._collector.add(
            file,
            association=id(event.assoc),
            peer=_title(event.assoc.requestor.ae_title),
            series=found["SeriesInstanceUID"],
            instance=found["SOPInstanceUID"],
            patient=(found["PatientID"], found["StudyInstanceUID"]),
        )
        return SUCCESS

    def _ended(self, event: Any, broken: bool) -> None:
        self._collector.end(id(event.assoc), broken=broken)

    def _rejected(self, event: Any) -> None:
        caller = printable(_title(event.assoc.requestor.ae_title))
        logger.warning(f"an association of {caller} was refused: only peers may call, by this node's AE title")

    def _segment_what_comes(self) -> None:
        while not self._stopping.wait(LOOK):
            for series in self._collector.whole():
                name = f"series {printable(series.uid)} of {series.peer}"
                begun = time.monotonic()
                try:
                    self._segment(series)
                    logger.info(f"{name}: segmented and sent in {time.monotonic() - begun:.0f} s")
                except UserError as error:
                    text = str(error).replace(f"{series.folder}/", "")
                    logger.error(f"{name}: nothing was sent: {text}")
                except (WorkerDied, OSError) as error:
                    logger.error(f"{name}: nothing was sent: {error}")
                finally:
                    self._collector.remove(series)

    def _segment(self, series: Incoming) -> None:
        series.check()
        result = self._worker.run(Task((series.folder,), series.folder))
        for warning in result.warnings:
            logger.warning(f"series {printable(series.uid)} is unlike the training images: {warning}")
        for attempt in range(1, ATTEMPTS + 1):
            why = send(result.file, self._peers[series.peer], self._title, self._tls and self._tls.opening)
            if not why:
                return
            if attempt < ATTEMPTS:
                self._stopping.wait(PAUSE)
        raise UserError(f"{series.peer} did not take the segmentation: {why}")


def send(file: Path, peer: Peer, title: str, tls: ssl.SSLContext | None = None) -> str:
    """Send a DICOM-SEG to a peer; why it did not take it, or an empty text.

    Args:
        file: The DICOM-SEG.
        peer: Where it goes.
        title: AE title of the sender.
        tls: For an association with TLS.
    """
    import pydicom
    from pynetdicom import AE
    from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]

    dataset = pydicom.dcmread(file)
    entity = AE(ae_title=title)
    entity.add_requested_context(SegmentationStorage, dataset.file_meta.TransferSyntaxUID)
    entity.connection_timeout = CONNECT
    encrypted = None if tls is None else (tls, peer.host)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title, tls_args=encrypted)
    if not association.is_established:
        return f"{peer.host}:{peer.port} does not answer, or refuses this node"
    try:
        status = association.send_c_store(dataset)
    except ValueError as error:
        return cause_of(error)
    finally:
        association.release()
    code = status.get("Status")
    if code is None:
        return "it broke off"
    return "" if code == SUCCESS or code & 0xF000 == 0xB000 else f"it answered {code:#06x}"


def _title(given: str | bytes) -> str:
    return (given.decode("ascii", "replace") if isinstance(given, bytes) else given).strip()
