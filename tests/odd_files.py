"Files that no one can train on, for tests of what is said about them"
import av
import numpy as np

def sound_only(path):
    "A film without a picture"
    with av.open(str(path), 'w') as c:
        s = c.add_stream('aac', rate=16000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format='fltp', layout='mono')
        frame.rate = 16000
        c.mux(s.encode(frame))
        c.mux(s.encode())
    return path
