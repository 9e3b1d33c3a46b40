/** The rich-text editor bound to a room's document. */
import { Editor } from '@tiptap/core'
import Collaboration from '@tiptap/extension-collaboration'
import CollaborationCaret from '@tiptap/extension-collaboration-caret'
import { TaskItem, TaskList } from '@tiptap/extension-list'
import { Placeholder } from '@tiptap/extensions'
import StarterKit from '@tiptap/starter-kit'
import type { WebsocketProvider } from 'y-websocket'
import type * as Y from 'yjs'
import type { User } from './people'

/** Styled through the object model: the page's content policy forbids style attributes in markup. */
function caret(user: Record<string, unknown>): HTMLElement {
  const element = document.createElement('span')
  element.className = 'caret'
  element.dataset['testid'] = 'caret'
  element.style.setProperty('--user', String(user['color']))
  const label = document.createElement('span')
  label.className = 'caret-label'
  label.textContent = String(user['name'] ?? '')
  element.append('\u2060', label, '\u2060')
  return element
}

export function createEditor(element: HTMLElement, doc: Y.Doc, provider: WebsocketProvider, user: User): Editor {
  return new Editor({
    element,
    injectCSS: false,
    extensions: [
      StarterKit.configure({ undoRedo: false, link: { openOnClick: false, defaultProtocol: 'https' } }),
      TaskList,
      TaskItem.configure({ nested: true }),
      Placeholder.configure({ placeholder: 'Write something. Open this room in a second window to watch it arrive.' }),
      Collaboration.configure({ document: doc }),
      CollaborationCaret.configure({ provider, user: { ...user }, render: caret }),
    ],
    editorProps: {
      attributes: { 'aria-label': 'Document', 'aria-multiline': 'true', role: 'textbox', 'data-testid': 'document' },
    },
  })
}
