#!/usr/bin/env python3
"""Prints `PASSED FAILED` of a CTest JUnit report and writes the failed tests' names, one a line, to a file.

A report that is missing or empty counts as one failure: tests that did not run have not passed.

    count_tests.py REPORT.xml FAILED.txt
"""

import sys
import xml.etree.ElementTree as ElementTree


def main():
    report, failed_path = sys.argv[1:]
    passed, failed = 0, []
    try:
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            if case.get("status") == "run":
                passed += 1
            else:
                failed.append(case.get("name"))
    except (OSError, ElementTree.ParseError):
        pass
    if passed == 0 and not failed:
        failed.append("no test ran")
    with open(failed_path, "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in failed)
    print(passed, len(failed))


if __name__ == "__main__":
    main()
