"What the page of the exercise checker cannot show: a reader's stub, Jupyter, threads, interrupts, strange answers"
import builtins, os, subprocess, sys, threading, time
from pathlib import Path
import numpy as np, pytest, torch
from opensora_nb.check import Exercise, Wrong, check, check_value, difference

ROOT = Path(__file__).resolve().parent.parent
double = Exercise(lambda x: x*2, lambda: [(torch.arange(3.),), (torch.randn(2, 5).T,), (torch.randn(3).bfloat16(),)],
                  wrong=[Wrong(lambda x: x**2, 'square'), Wrong(lambda x: x + 2, 'plus')], hints=('gentle', 'direct'))
def right(x): return x + x

def test_stub_that_passes_is_an_error_except_for_a_reader(monkeypatch):
    with pytest.raises(AssertionError, match='the stub passes'): double.prove(right, right)
    ZMQInteractiveShell = type('ZMQInteractiveShell', (), {})
    monkeypatch.setattr(builtins, 'get_ipython', ZMQInteractiveShell, raising=False)
    double.prove(right, right)
    with pytest.raises(AssertionError, match='solution is refused'): double.prove(right, lambda x: x)

def test_hints():
    assert check(lambda x: x*x, double).hint == 'square' and check(lambda x: 2 + x, double).hint == 'plus'
    hints = [check(lambda x: x, double, hint=h).hint for h in (-1, 0, 1, 2, 9)]
    assert hints == ['gentle', 'gentle', 'gentle', 'direct', 'direct']

def boom(x): raise RuntimeError('`bad`\n\n# title')
class Sour(Exception):
    def __str__(self): raise ValueError
def sour(x): raise Sour()
def exits(x): sys.exit(3)
def interrupts(x): raise KeyboardInterrupt
def recurses(x): return recurses(x)
def closes(x):
    sys.stdout.close()
    return x
def floods(x):
    while True: print('x'*100)
class Hostile:
    def __eq__(self, o): raise RuntimeError
    def __repr__(self): raise RuntimeError
class HostileCall(Hostile):
    def __call__(self, x): return self

@pytest.mark.parametrize('answer', [
    boom, sour, exits, interrupts, recurses, closes, floods, lambda: 0, lambda x: Hostile(), HostileCall(), Hostile(),
    None, 5, '', int, lambda x: x.numpy(force=True), lambda x: x.tolist(), lambda x: x.to_sparse(),
    lambda x: x.to('meta'), lambda x: [x, [x]], lambda x: {1: x}, lambda x: x.double(), lambda x: x[None],
    lambda x: torch.full_like(x, torch.nan), lambda x: torch.tensor(0), lambda x: x.add_(x), lambda x: x.resize_(0),
    torch.nn.Linear(3, 3),
])
def test_never_raises(answer, capsys):
    out, state = sys.stdout, torch.get_rng_state()
    report = check(answer, double, seconds=.3)
    assert not report.ok and not report and report.passed < report.total == 3 and report.why and report.hint
    assert '\n' not in report.why and repr(report).startswith('✗') and report._repr_markdown_()
    assert sys.stdout is out and torch.equal(torch.get_rng_state(), state) and capsys.readouterr().out == ''

def test_loops_end_and_threads_go():
    n, start = threading.active_count(), time.time()
    def endless(x):
        while True:
            try: x = x + 1
            except Exception: pass
    report = check(endless, double, seconds=.2)
    assert 'loop' in report.why and time.time() - start < 5 and threading.active_count() == n
    late = []
    t = threading.Thread(target=lambda: late.append(check(endless, double, seconds=.2)))
    t.start()
    t.join(10)
    assert late and not late[0].ok                                         # from a thread that is not the main one

def test_what_cannot_be_ended_is_said():
    report = check(lambda x: time.sleep(3), double, seconds=.1)
    assert 'still runs' in report.why

def test_a_loop_in_the_last_case_only():
    def sometimes(x):
        while x.dtype == torch.bfloat16: pass
        return x*2
    report = check(sometimes, double, seconds=.2)
    assert report.passed == 2 and 'Case 3' in report.why

def test_a_reader_may_interrupt():
    "Ctrl-C reaches the reader, and the loop does not go on behind their back"
    code = (
        "import os, signal, threading, time\n"
        "from opensora_nb.check import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n" # a job in the background is born deaf to it
        "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "def endless(n):\n"
        "    while True: n += 1\n"
        "try: check(endless, Exercise(lambda n: n, [(1,)]), seconds=60)\n"
        "except KeyboardInterrupt: print('stopped', sum(t.daemon for t in threading.enumerate()))")
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=60)
    assert out.stdout.split() == ['stopped', '0'], out.stdout + out.stderr

def test_cases_are_never_changed():
    x = torch.zeros(3)
    ex = Exercise(lambda x: x + 1, [(x,)])
    assert not check(lambda x: x.add_(1), ex).ok and check(lambda x: x + 1, ex).ok and x.sum() == 0

def test_random_answers_and_generators():
    ex = Exercise(lambda n: torch.randn(n), [(3,)])
    assert check(lambda n: torch.empty(n).normal_(), ex) and not check(lambda n: torch.rand(n), ex)
    ex = Exercise(lambda g: torch.randn(2, generator=g), lambda: [(torch.Generator().manual_seed(3),)])
    assert check(lambda g: torch.randn(2, generator=g), ex) and not check(lambda g: torch.randn(2), ex)
    assert check(lambda n: np.random.rand(n), Exercise(lambda n: np.random.rand(n), [(4,)]))

def test_gradients_reach_an_answer():
    def grad(x):
        x = x.requires_grad_()
        return torch.autograd.grad((x**2).sum(), x)[0]
    assert check(grad, Exercise(lambda x: 2*x, [(torch.randn(3),)], tol=1e-4)).ok

def test_modules_as_arguments():
    ex = Exercise(lambda m, x: m(x)*2, lambda: [(torch.nn.Linear(2, 3), torch.randn(4, 2))])
    assert check(lambda m, x: m(x) + m(x), ex) and not check(lambda m, x: m(x), ex)

def test_strings_arrays_and_trees():
    assert not difference({'a': [np.ones(3), 'b', None]}, {'a': (np.ones(3), 'b', None)})
    assert 'item 1' in difference((1, 2), (1, 3)) and "entry 'a'" in difference({'a': 1}, {'a': 2})
    assert difference(np.array(['a']), np.array(['b'])) and difference(torch.tensor(2**53 + 1), torch.tensor(2**53))
    assert difference(1 + 2j, 1 + 3j)
    assert not difference(torch.zeros(2, 0), torch.zeros(2, 0))
    assert difference('ab', 'aB')

def test_values():
    assert check_value(np.float32(2), 2)
    assert check_value((1, (2, 'A b')), [1.0, [2, 'a  B']])
    assert check_value(True, True)
    r = check_value(7, 8, hints=('one', 'two'), wrong=[(7, 'off by one')])
    assert r.hint == 'off by one' and '8' not in repr(r)
    assert check_value(6, 8, hints=('one', 'two'), hint=2).hint == 'two'
    assert not check_value(Hostile(), 8)
    assert not check_value(float('nan'), 8)

def test_an_exercise_without_cases():
    with pytest.raises(ValueError, match='at least 1 case'): Exercise(lambda x: x, [])
