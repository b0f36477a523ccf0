"""Prompts to begin with: for the model that the package carries, and for real weights."""

from __future__ import annotations

from chatglm.web.answering import Mode
from chatglm.words import Language

EMBEDDED: dict[Mode, dict[Language, tuple[str, ...]]] = {
    "chat": {
        "en": ("Who are you?", "What colour is the sky?", "My name is Tom.", "Tell me a joke", "What can you do?"),
        "zh": ("你是谁？", "天空是什么颜色？", "法国的首都是哪里？", "讲个笑话", "你能做什么？"),
    },
    "tool": {
        "en": ("What is 12 * 7?", "What time is it?", "What is 96 / 8?", "What is 45 + 17?", "What is today's date?"),
        "zh": ("12乘以7等于多少？", "现在几点了？", "96除以8等于多少？", "45加17等于多少？", "今天是几号？"),
    },
    "code": {
        "en": (
            "Compute 2 to the power of 20 with code.",
            "Sum the numbers from 1 to 100 with code.",
            "Draw a sine curve.",
            "List the prime numbers below 30 with code.",
            "Draw a bar chart of 3, 7, 5.",
        ),
        "zh": (
            "用代码计算2的20次方。",
            "用代码求1到100的和。",
            "画出正弦曲线。",
            "用代码列出30以内的质数。",
            "画出3、7、5的柱状图。",
        ),
    },
}
REAL: dict[Mode, dict[Language, tuple[str, ...]]] = {
    "chat": {
        "en": (
            "Explain how vaccines work to a child of ten.",
            "Write a polite letter that declines an invitation.",
            "Compare three ways to sort a list, as a table.",
            "Derive the formula for the roots of a quadratic equation.",
            "Plan three days in Beijing for a family.",
        ),
        "zh": (
            "晚上睡不着应该怎么办？",
            "写一封婉拒邀请的信。",
            "用表格比较三种排序算法。",
            "推导一元二次方程的求根公式。",
            "为一家人安排三天的北京行程。",
        ),
    },
    "tool": {
        "en": (
            "What is (17.5 + 3) * 42?",
            "What time is it in Shanghai?",
            "How many days are left in this year?",
            "What is 15% of 2,480, and the square root of that?",
            "What is the date two weeks from today?",
        ),
        "zh": (
            "(17.5 + 3) * 42 等于多少？",
            "上海现在几点？",
            "今年还剩多少天？",
            "2480的15%是多少？再开平方呢？",
            "两周以后是几月几日？",
        ),
    },
    "code": {
        "en": (
            "Draw a heart with matplotlib.",
            "Simulate 1,000 throws of two dice and plot the sums.",
            "Make a table of squares and cubes from 1 to 10 and save it as a CSV file.",
            "Find all prime numbers below 200 and tell how many there are.",
            "Fit a line through the points (1, 2), (2, 4.1), (3, 5.9), (4, 8.2) and plot it.",
        ),
        "zh": (
            "用matplotlib画一个爱心。",
            "模拟掷两个骰子1000次，画出点数之和的分布。",
            "列出1到10的平方和立方，保存为CSV文件。",
            "找出200以内的所有质数，并说明有多少个。",
            "对点(1, 2)、(2, 4.1)、(3, 5.9)、(4, 8.2)做直线拟合并画图。",
        ),
    },
}


def prompts(mode: Mode, language: Language, *, embedded: bool) -> tuple[str, ...]:
    """Five prompts."""
    return (EMBEDDED if embedded else REAL)[mode][language]
