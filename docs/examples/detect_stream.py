"""Detects objects in a video file or a camera over one gRPC stream, and draws them.

python -m docs.examples.detect_stream street.mp4 drawn.avi [localhost:3001]
python -m docs.examples.detect_stream 0     # the first camera, in a window of OpenCV; q ends it
"""

import sys
import threading
from collections import deque
from collections.abc import Iterator

import cv2
import grpc

from service.rpc.stubs.vision_pb2 import DetectRequest
from service.rpc.stubs.vision_pb2_grpc import VisionStub

UNDER_WAY = 4  # frames: enough that the service always has one, few enough that a camera stays current


def main(source: str, target: str = "", address: str = "localhost:3001") -> None:
    video = cv2.VideoCapture(int(source) if source.isdigit() else source)
    size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    code = cv2.VideoWriter.fourcc(*"MJPG")
    file = cv2.VideoWriter(target, code, video.get(cv2.CAP_PROP_FPS) or 25, size) if target else None
    free, sent = threading.Semaphore(UNDER_WAY), deque()

    def requests() -> Iterator[DetectRequest]:
        while free.acquire():
            there, frame = video.read()
            if not there:
                return
            sent.append(frame)
            yield DetectRequest(image=cv2.imencode(".jpg", frame)[1].tobytes(), score_threshold=0.4)

    with grpc.insecure_channel(address) as channel:
        for answer in VisionStub(channel).DetectStream(requests()):  # in the order of the frames
            frame = sent.popleft()
            free.release()
            for found in answer.result.detections:
                box = found.box
                (x1, y1), (x2, y2) = (round(box.x1), round(box.y1)), (round(box.x2), round(box.y2))
                cv2.rectangle(frame, (x1, y1), (x2, y2), (0, 200, 0), 2)
                text = f"{found.label} {found.score:.2f}"
                cv2.putText(frame, text, (x1 + 3, y1 + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 200, 0), 2)
            if file is not None:
                file.write(frame)
            else:
                cv2.imshow("Lynceus", frame)
                if cv2.waitKey(1) == ord("q"):
                    break


if __name__ == "__main__":
    main(*sys.argv[1:])
