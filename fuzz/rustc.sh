#!/bin/sh
# Between cargo and rustc: crates of the workspace count for libFuzzer which of their code ran. Build
# scripts and macros, which cargo builds without --target, must not: nothing would be there to count.
# The fuzzer itself is linked dynamically: libFuzzer looks up its hooks while it runs, and a static program
# cannot do that.
case " $* " in
*" --crate-name coracle_fuzz "*)
    for argument; do
        shift
        [ "$argument" = target-feature=+crt-static ] && argument=target-feature=-crt-static
        set -- "$@" "$argument"
    done
    ;;
esac
case " $* " in
*" --target "*)
    exec "$@" -C passes=sancov-module \
        -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
        -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
