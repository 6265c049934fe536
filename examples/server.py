"""Saliency maps over HTTP: POST a picture, get what was seen in it and the heat map.

    pip install fastapi uvicorn
    python server.py MODEL.onnx [PORT]
    curl --data-binary @cat.jpg "http://127.0.0.1:8000/saliency?target=tiger%20cat"

The answer is a JSON list, for each class `index`, `label`, `score`, `probability` and `heatmap`, a
PNG in base64. `target` is top1 to top9, an index or a label. What is no picture or no class is
answered with 400 and a sentence. Memory is bounded: WORKERS pictures are worked on, CONNECTIONS
wait with MOST_BYTES each, and more get 503. JPEG pictures beyond MOST_PIXELS are read at a reduced
size, others are refused.
"""

import base64
import re
import sys
from io import BytesIO
from typing import Any

import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request
from PIL import Image
from starlette.requests import ClientDisconnect

WORKERS, CONNECTIONS, MOST_BYTES, MOST_PIXELS = 2, 64, 20_000_000, 50_000_000
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow refuses twice its limit, and the engine too

from deepinside.engine import Engine, ImageError, ImageFile, TargetError, heatmap  # noqa: E402

if len(sys.argv) not in (2, 3):
    raise SystemExit(__doc__)
# Opened once; any number of threads may use it at the same time. Its idle threads don't spin, which
# leaves the cores to those that decode and draw, and to others.
engine = Engine(sys.argv[1], spinning=False)
app, workers = FastAPI(title="deepinside"), CapacityLimiter(WORKERS)


@app.get("/health")
async def health() -> dict[str, str]:
    """Says that the server is up, also while pictures are worked on."""
    return {"status": "ok", "device": engine.device}


@app.post("/saliency")
async def saliency(request: Request, target: str = "top1") -> list[dict[str, Any]]:
    """Explains the picture in the request's body."""
    if re.fullmatch(r"top-?\d\d+", target, re.IGNORECASE):
        raise HTTPException(400, "at most nine classes are explained at once.")
    picture = bytearray()
    try:
        async for chunk in request.stream():
            picture += chunk
            if len(picture) > MOST_BYTES:
                raise HTTPException(413, f"the picture has more than {MOST_BYTES} bytes.")
        return await to_thread.run_sync(explain, picture, target, limiter=workers)
    except (ImageError, TargetError) as error:
        raise HTTPException(400, str(error)) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client has gone.") from error


def explain(picture: bytearray, target: str) -> list[dict[str, Any]]:
    """Computes and draws the maps, in a thread, so that the server goes on listening."""
    answers = []
    file = ImageFile("the picture", lambda: BytesIO(picture))
    for item in engine.saliency(file, target, keep_gradient=False):
        png = BytesIO()
        Image.fromarray(heatmap(item.saliency)).save(png, "PNG", compress_level=3)
        facts = {name: getattr(item, name) for name in ("index", "label", "score", "probability")}
        answers.append({**facts, "heatmap": base64.b64encode(png.getvalue()).decode()})
    return answers


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) == 3 else 8000
    uvicorn.run(app, port=port, limit_concurrency=CONNECTIONS)
