"""The compact prompt adapter: prompts that hold only what varies from call to call, for students that are tuned on them.

- System message: the signature's instructions; left out with `instructions=False`.
- User message: the bare value of the one input, or one `name: value` line for each of several inputs.
- Answer: the bare value of the one output, or one `name: value` line for each of several outputs.

A value may go on over several lines. Text that would be read back as something else, such as a line that begins with the name of
another field, is written as a JSON string. Values of other types are written as the first of plain text and JSON that reads back.

The field calls this prompt distillation or context distillation (Askell et al. 2021, arXiv 2112.00861, section 3.1; Snell et al. 2022,
arXiv 2209.15189).
"""

import textwrap
from collections.abc import Mapping
from typing import Any

import dspy
import pydantic
from dspy.adapters.utils import apply_output_field_defaults, format_field_value
from dspy.utils.exceptions import AdapterParseError

from stillhouse_programs.compact_streams import listen
from stillhouse_programs.compact_text import EMPTY, join_lines, quoted_if_ambiguous, read_value, split_lines, write_value

Message = dict[str, Any]


class CompactAdapter(dspy.Adapter):
    """Format prompts without dspy's format instructions, and parse the bare answers.

    `instructions=False` leaves the signature's instructions out too. `reasoning=False` leaves the output `reasoning` of
    `dspy.ChainOfThought` out of answers; it then reads as an empty text. There is no fallback to JSON.
    """

    def __init__(self, *, instructions: bool = True, reasoning: bool = True, use_native_function_calling: bool = False) -> None:
        super().__init__(use_native_function_calling=use_native_function_calling)
        self.instructions = instructions
        self.reasoning = reasoning

    def format(self, signature: Any, demos: list[Any], inputs: dict[str, Any]) -> list[Message]:
        """Return the messages of a call, without a system message where there are no instructions.

        Here the fields of the answer are known, so listeners of a streamed call are told of them.
        """
        listen(self.answer_fields(signature))
        messages: list[Message] = super().format(signature, demos, inputs)
        return messages if messages[0]["content"] else messages[1:]

    def format_system_message(self, signature: Any) -> str:
        """Return the instructions of the signature, or an empty text."""
        return textwrap.dedent(signature.instructions).strip() if self.instructions else ""

    def format_user_message_content(
        self, signature: Any, inputs: Mapping[str, Any], prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        """Return the inputs that are given: a bare value, or a line each where the signature has several."""
        fields = signature.input_fields
        texts = {name: str(format_field_value(info, inputs[name])) for name, info in fields.items() if name in inputs}
        if len(fields) == 1:
            content = "".join(text or EMPTY for text in texts.values())
        else:
            content = join_lines({name: quoted_if_ambiguous(text, fields) for name, text in texts.items()})
        return "\n\n".join(part for part in (prefix, content, suffix) if part)

    def format_assistant_message_content(self, signature: Any, outputs: Mapping[str, Any], missing_field_message: str | None = None) -> str:
        """Return the answer that gives `outputs`. An output that is not given reads as `missing_field_message`."""
        fields = self.answer_fields(signature)
        missing = str(missing_field_message)
        texts = {name: write_value(outputs[name], info, fields) if name in outputs else missing for name, info in fields.items()}
        return next(iter(texts.values())) if len(texts) == 1 else join_lines(texts)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Read an answer into typed outputs. Raises AdapterParseError."""
        fields = self.answer_fields(signature)
        texts = dict.fromkeys(fields, completion) if len(fields) == 1 else split_lines(completion, fields)
        left_out = {name: info for name, info in signature.output_fields.items() if name not in fields}
        read: dict[str, Any] = {name: pydantic.TypeAdapter(info.annotation).validate_python("") for name, info in left_out.items()}
        for name, text in texts.items():
            try:
                read[name] = read_value(text, fields[name].annotation)
            except (ValueError, SyntaxError) as error:
                message = f"Failed to parse field {name} with value {text!r} from the LM response. Error message: {error}"
                raise self._parse_error(signature, completion, message) from error
        read = apply_output_field_defaults(signature, read)
        if read.keys() != signature.output_fields.keys():
            raise self._parse_error(signature, completion, None)
        return read

    def answer_fields(self, signature: Any) -> dict[str, Any]:
        """Return the output fields that an answer holds."""
        fields = dict(signature.output_fields)
        reasoning = fields.get("reasoning")
        if not self.reasoning and len(fields) > 1 and reasoning is not None and reasoning.annotation in (str, dspy.Reasoning):
            del fields["reasoning"]
        return fields

    def format_finetune_data(
        self, signature: Any, demos: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]
    ) -> dict[str, list[Message]]:
        """Return the messages of a call and its answer, in the form of OpenAI's fine-tuning files."""
        answer = {"role": "assistant", "content": self.format_assistant_message_content(signature, outputs)}
        return {"messages": [*self.format(signature, demos, inputs), answer]}

    def _parse_error(self, signature: Any, completion: str, message: str | None) -> AdapterParseError:
        return AdapterParseError(adapter_name="CompactAdapter", signature=signature, lm_response=completion, message=message)
