"""Samples of bypasses that were published against scanners of pickles, made again from their descriptions."""

from __future__ import annotations


def g(module: str, name: str) -> bytes:
    """A pickle program's wish for a name of a module."""
    return f"c{module}\n{name}\n".encode()


PUBLISHED = [
    # picklescan's and fickling's advisories: functions that run what they are given
    *("asyncio.unix_events _UnixSubprocessTransport._start", "bdb Bdb.run", "cProfile run", "cProfile runctx"),
    *("code InteractiveInterpreter.runcode", "codeop Compile", "ctypes CDLL", "distutils.file_util write_file"),
    *("doctest debug_script", "ensurepip _run_pip", "functools reduce", "idlelib.pyshell ModifiedInterpreter.runcode"),
    *("importlib import_module", "imaplib IMAP4_stream", "lib2to3.pgen2.pgen ParserGenerator.make_label"),
    *("linecache getline", "logging.config listen", "marshal loads", "numpy.f2py.crackfortran getlincoef"),
    *("numpy.f2py.crackfortran _eval_length", "numpy.testing._private.utils runstring", "numpy load"),
    *(
        "numpy.core.multiarray fromfile",
        "operator itemgetter",
        "os system",
        "nt system",
        "pickle loads",
        "_pickle loads",
    ),
    *("pip main", "pip._internal.cli.main main", "pkgutil resolve_name", "profile Profile.run", "pty spawn"),
    *("pydoc pipepager", "runpy run_path", "shutil rmtree", "site execsitecustomize", "sys modules", "timeit timeit"),
    *("trace Trace.run", "types CodeType", "types FunctionType", "uuid _get_command_stdout", "venv create"),
    *("torch load", "torch._dynamo.guards GuardBuilder.get", "torch._inductor.codecache compile_file"),
    *("torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression", "torch.jit load"),
    *("torch.jit.unsupported_tensor_ops execWrapper", "torch.serialization load", "torch.storage _load_from_bytes"),
    *("torch.utils._config_module ConfigModule.load_config", "torch.utils.bottleneck.__main__ run_cprofile"),
    *("torch.utils.collect_env run", "torch.utils.data.datapipes.utils.decoder basichandlers"),
    *("webbrowser open", "builtins __import__", "builtins open", "builtins setattr", "__builtin__ eval"),
    *("copyreg _reconstructor", "copyreg __newobj__", "dill._dill _load_type", "joblib.numpy_pickle load"),
    *("collections namedtuple", "pathlib os.system", "datetime sys.modules", "decimal setcontext", "uuid os.system"),
]


def spelled(module: str, name: str, argument: str) -> dict[str, bytes]:
    """Programs that call the same function, each spelled in another way."""
    call = f"(S'{argument}'\ntR.".encode()
    short = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
    return {
        "GLOBAL": g(module, name) + call,
        "STACK_GLOBAL": b"\x80\x04" + b"".join(short) + b"\x93" + call,
        # the texts are memoised, taken off the stack and brought back: scanners look at what stands before the opcode
        "memo": b"\x80\x04" + short[0] + b"\x940" + short[1] + b"\x940N0h\x00h\x01\x93" + call,
        "twice": g("collections", "OrderedDict") + b"q\x000" + g(module, name) + b"q\x000h\x01" + call,
        "INST": b"(S'x'\ni" + module.encode() + b"\n" + name.encode() + b"\n.",
        "broken": g(module, name) + call[:-1] + b"\xff\xff",
    }
