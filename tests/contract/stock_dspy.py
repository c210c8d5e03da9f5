"""`dspy.BootstrapFinetune` as it is. Nothing here names our server: OPENAI_BASE_URL and OPENAI_API_KEY are in the environment.

Prints one JSON object; the test looks at it.
"""

import json
import sys

import dspy
from dspy.utils import DummyLM

CATEGORY, ANSWER = "billing", "We will help you today."
ROWS = 24


class Support(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict("message -> category")
        self.reply = dspy.Predict("message, category -> answer")

    def forward(self, message: str) -> dspy.Prediction:
        category = self.classify(message=message).category
        return dspy.Prediction(category=category, answer=self.reply(message=message, category=category).answer)


def main() -> None:
    student, teacher = Support(), Support()
    student.set_lm(dspy.LM(f"openai/{sys.argv[1]}", temperature=0, max_tokens=40))
    teacher.classify.lm = DummyLM([{"category": CATEGORY}] * ROWS)
    teacher.reply.lm = DummyLM([{"answer": ANSWER}] * ROWS)
    trainset = [dspy.Example(message=f"Message {n}", category=CATEGORY, answer=ANSWER).with_inputs("message") for n in range(ROWS)]
    optimizer = dspy.BootstrapFinetune(
        metric=lambda example, prediction, trace=None: prediction.category == example.category,
        multitask=False,
        train_kwargs={"n_epochs": 20, "learning_rate": 0.01, "batch_size": 8},
        num_threads=2,
    )
    compiled = optimizer.compile(student, trainset=trainset, teacher=teacher)
    answer = compiled(message="Message 101")
    print(json.dumps({
        "models": {name: predictor.lm.model for name, predictor in compiled.named_predictors()},
        "answered": {name: predictor.lm.history[-1]["response_model"] for name, predictor in compiled.named_predictors()},
        "answer": [answer.category, answer.answer],
        "taught": [CATEGORY, ANSWER],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
